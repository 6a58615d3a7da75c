"""ClearML: runs that can be cloned, edited, enqueued and executed by an agent. The only code that imports `clearml`."""
