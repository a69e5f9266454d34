"""The stages of a training: what each is made from, which are to be done, and each of them done."""
