"""A first look: the bundle and soundscapes that ship with birdstation, replayed with a broker
listening."""
