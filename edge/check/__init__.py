"""Whether a station is fit to be left alone, before it is: settings, bundle, machine, disk, clock,
broker, sound."""
