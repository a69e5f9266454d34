"""birdstation on the device: sound in, trustworthy records out."""
