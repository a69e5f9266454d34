"""Checks that a station is ready to run unattended: settings, bundle, machine, disk, clock, broker,
sound."""
