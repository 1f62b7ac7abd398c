"""The short form of `make torture`: a few kills at random moments; nothing is lost, nothing is done twice."""

from torture import kills


def test_killed_training_ends_in_the_weights_of_an_uninterrupted_run(tmp_path):
    found = kills.torture_training(tmp_path, ends=3, seed=0)
    assert found["ends"] == 3
    wrong = ("steps_lost", "steps_twice", "runs_that_differ")
    assert {name: found[name] for name in wrong} == dict.fromkeys(wrong, 0)


def test_killed_scoring_ends_with_every_image_once(tmp_path):
    found = kills.torture_scoring(tmp_path, kills=4, seed=0)
    assert found["kills"] == 4
    wrong = ("rows_lost", "rows_twice", "rows_that_differ")
    assert {name: found[name] for name in wrong} == dict.fromkeys(wrong, 0)
