"""Networks: classification models by name, insertion of blocks into them, and files that rebuild them."""
