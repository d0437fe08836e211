"""The work behind the commands: training from settings to a run folder, its estimate, and settings of each command."""
