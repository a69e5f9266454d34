"""Parts of the daemon: its threads, the protocol that all sources follow, overload, gaps, clean-up
of clips, the watchdog."""
