"""Clients of outside systems. No plugin code here."""
