"""What the daemon is made of: its threads, its sources' one protocol, overload, gaps, the house,
the watchdog."""
