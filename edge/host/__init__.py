"""The machine itself: its clock, its disk, its service manager. Knows no birds."""
