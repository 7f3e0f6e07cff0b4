"""How the command line draws: tables, lines, live views, colours and the standard streams."""
