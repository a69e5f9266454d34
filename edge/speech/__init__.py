"""Detection of human speech in a stream: a network for speech, and the rule that tells speech from
bird song."""
