"""What turns images into member scores on this machine."""
