"""Iterative decoding, against logits whose right answer is known."""

import pytest
import torch

from cpmae.sampling import sample, spread_order

SHAPE = (4, 5, 6)
SIZE = 7  # of the codebook; also the mask id


def draw(logits_fn, removed, seed=0, temperature=1.0, num_steps=5, codes=None):  # noqa: ANN001, ANN201
    codes = torch.full(SHAPE, 3) if codes is None else codes
    generator = torch.Generator().manual_seed(seed)
    arguments = {"mask_id": SIZE, "num_steps": num_steps, "temperature": temperature, "generator": generator}
    return sample(logits_fn, codes, removed, **arguments)


def by_position(codes: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Code i at position i modulo the codebook size, and no doubt about it."""
    return torch.nn.functional.one_hot(where % SIZE, SIZE).float() * 50


def test_visible_codes_stay_and_removed_ones_are_drawn() -> None:
    removed = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)) < 0.5
    found = draw(by_position, removed)
    expected = torch.arange(removed.numel()).view(SHAPE) % SIZE
    assert (found[~removed] == 3).all()
    assert (found[removed] == expected[removed]).all()


def test_what_stands_under_the_mask_is_not_looked_at() -> None:
    removed = torch.ones(SHAPE, dtype=torch.bool)

    def from_codes(codes: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot((codes.sum() + where) % SIZE, SIZE).float()

    assert torch.equal(draw(from_codes, removed), draw(from_codes, removed, codes=torch.zeros(SHAPE, dtype=torch.long)))


@pytest.mark.parametrize("num_steps", [1, 2, 7, 1000])
def test_every_position_is_filled_once_and_each_step_sees_the_earlier_ones(num_steps: int) -> None:
    asked: list[torch.Tensor] = []

    def watch(codes: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        assert (codes.view(-1)[where] == SIZE).all()
        assert int((codes != SIZE).sum()) == sum(len(a) for a in asked)
        asked.append(where)
        return by_position(codes, where)

    draw(watch, torch.ones(SHAPE, dtype=torch.bool), num_steps=num_steps)
    assert sorted(torch.cat(asked).tolist()) == list(range(120))
    assert len(asked) <= num_steps
    sizes = [len(a) for a in asked]
    assert num_steps != 7 or sizes[0] < sizes[-1]  # few at first


def test_the_generator_alone_decides() -> None:
    def flat(codes: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(where), SIZE)

    removed = torch.ones(SHAPE, dtype=torch.bool)
    assert torch.equal(draw(flat, removed, seed=4), draw(flat, removed, seed=4))
    assert not torch.equal(draw(flat, removed, seed=4), draw(flat, removed, seed=5))


def test_draws_follow_the_softmax() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.2])
    generator = torch.Generator().manual_seed(0)
    removed = torch.ones(20, 20, 20, dtype=torch.bool)
    found = sample(
        lambda codes, where: probabilities.log().expand(len(where), 3),
        torch.zeros(20, 20, 20, dtype=torch.long),
        removed,
        mask_id=3,
        num_steps=3,
        temperature=1.0,
        generator=generator,
    )
    shares = torch.bincount(found.flatten(), minlength=3) / found.numel()
    torch.testing.assert_close(shares, probabilities, atol=0.02, rtol=0)


def test_temperature_zero_takes_the_most_likely() -> None:
    def slight(codes: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        return torch.tensor([0.0, 0.1, 0.0, 0, 0, 0, 0]).expand(len(where), SIZE)

    assert (draw(slight, torch.ones(SHAPE, dtype=torch.bool), temperature=0) == 1).all()


def test_spread_order_is_a_permutation_that_spreads() -> None:
    order = spread_order((12, 15, 16), torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == list(range(12 * 15 * 16))
    first = order[:64]
    cells = torch.stack([first // 240 // 3, first // 16 % 15 // 4, first % 16 // 4])  # a 4 x 4 x 4 partition
    assert len({tuple(c) for c in cells.T.tolist()}) > 45  # of 64; independent draws reach about 40
