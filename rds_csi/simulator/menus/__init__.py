"""The menus of the simulated device, a module for each subject."""
