"""From a Run to a Bundle, and from a Bundle to what a device runs."""
