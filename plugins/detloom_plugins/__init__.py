"""First-party plugins: each module or package below `<kind>/` is one plugin, found by the host."""
