"""The work behind the commands: training, its estimate, and costs of networks."""
