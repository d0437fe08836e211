"""Networks: classifiers and detectors by name, and files that rebuild them."""
