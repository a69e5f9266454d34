class UnsupportedOperatorException(RuntimeError):
    pass
