"""Whole training steps of other make, on our weights and inputs, beside which ours is timed.

`release_eager` computes as the released code does, `compile_sdpa` is our own model given to torch's compiler. Neither
is timed before it has shown our loss and our gradients (`equality`).
"""
