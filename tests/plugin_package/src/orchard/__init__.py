"""Plugins for Detloom that know nothing of it but what `import detloom` offers."""
