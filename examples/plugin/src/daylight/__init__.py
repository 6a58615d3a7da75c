"""Plugins for Detloom: an augmentation, a loss and an observer."""
