"""Small networks of the package: CIFAR ResNets, and the network of the generated scenes."""
