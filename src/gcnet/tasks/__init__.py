"""Tasks: what differs between classification and detection in training, evaluation, prediction and analysis."""
