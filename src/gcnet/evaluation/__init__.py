"""Evaluation: accuracy of classifiers, pictures of results, predictions on images."""
