"""The page of `gcnet demo`: trained models on uploaded images, in a browser or over HTTP (Gradio)."""
