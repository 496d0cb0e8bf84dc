"""Lifetimes that the tape follows: saved tensors, views, sums of gradients, weights."""

from __future__ import annotations

from s4d.analysis.plan.tape import Tape, Value


def test_what_is_saved_lives_until_its_backward_and_the_rest_until_its_name_goes() -> None:
    tape = Tape()
    x = tape.new(10)
    y = tape.op([x], 20, saves=[x], keeps=3)
    tape.release(x)
    assert tape.live == 33
    tape.op([y], 5)
    tape.release(y)
    assert tape.live == 18 and tape.peak == 38
    tape.backward()
    # The gradient of the last one, then of y, then of x, which stays with its caller.
    assert tape.live == 5 + 10


def test_a_view_adds_no_bytes_and_keeps_those_of_its_base() -> None:
    tape = Tape()
    base = tape.op([tape.new(0)], 8)
    view = tape.op([base], 4, view=True)
    tape.release(base)
    assert tape.live == 8
    tape.release(view)
    assert tape.live == 0


def test_gradients_of_one_tensor_are_added_in_place_unless_held_elsewhere() -> None:
    def peak(shared: bool) -> int:
        tape = Tape()
        x = tape.op([], 10)
        left = tape.op([x], 10)
        right = tape.op([x], 10, grads=[None] if shared else None)
        total = tape.op([left, right], 10, grads=[None, None])
        tape.release(x, left, right, total)
        assert tape.live == 0
        tape.peak = 0
        tape.backward()
        assert tape.live == 0
        return tape.peak

    # Through `left` always comes a tensor of its own; what `right` passes on is the sum's gradient itself.
    assert peak(shared=False) == 30 and peak(shared=True) == 20


def test_what_is_told_again_keeps_its_input_alone() -> None:
    tape = Tape()

    def twice(x: Value) -> Value:
        y = tape.op([x], 20, saves=[x], keeps=3)
        z = tape.op([y], 5, saves=[y], saves_output=True)
        tape.release(x, y)
        return z

    tape.release(tape.recomputed(twice, tape.new(10)))
    # What would be kept is there for the moment of its op.
    assert tape.live == 10 and tape.peak == 10 + 20 + 5
    tape.peak = 0
    tape.backward()
    # Input, what is kept now, the output with its gradient, and the gradient of what lies between.
    assert tape.peak == 10 + (3 + 20 + 5) + 5 + 20 and tape.live == 10


def test_gradients_of_weights_stay_where_they_are_kept() -> None:
    for keeps, left in ((True, 7), (False, 0)):
        tape = Tape(keeps_gradients=keeps)
        tape.release(tape.op([], 10, weights=7, back_scratch=100))
        tape.backward()
        assert tape.live == left and tape.peak == 10 + 7 + 100
