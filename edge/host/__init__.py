"""What this machine says of itself: its clock, its disk, its service manager. Knows no birds."""
