"""Tasks, such as classification and detection: training, evaluation, prediction, analysis and costs."""
