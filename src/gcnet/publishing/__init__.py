"""Trained models for others: the model card, and the repository on the Hugging Face Hub."""
