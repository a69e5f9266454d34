"""Stand-ins for tensorrt and cuda-python, found through PYTHONPATH by the commands under test."""
