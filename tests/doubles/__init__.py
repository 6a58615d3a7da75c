"""Doubles: servers on 127.0.0.1 that stand for outside systems in tests and refuse what those refuse."""
