import torch

from optbench.optimizers.engine.foreach_chunks import foreach_chunks


def test_on_a_cpu_tensors_come_one_by_one_cut_to_size_and_as_views() -> None:
    matrix, vector = torch.zeros(3, 4), torch.zeros(2)
    lists = ([matrix, vector], [torch.ones(3, 4), torch.ones(2)])
    assert [a[0].shape for a, _ in foreach_chunks(lists)] == [(3, 4), (2,)]
    cut = list(foreach_chunks(lists, max_numel=5))
    assert [(len(a), a[0].numel(), b[0].numel()) for a, b in cut] == [
        (1, 5, 5),
        (1, 5, 5),
        (1, 2, 2),
        (1, 2, 2),
    ]
    for (a,), (b,) in cut:
        a.add_(b)
    assert torch.equal(matrix, torch.ones(3, 4))
    assert torch.equal(vector, torch.ones(2))


def test_on_an_accelerator_everything_comes_at_once() -> None:
    lists = ([torch.zeros(9, device="meta")], [torch.zeros(9, device="meta")])
    assert list(foreach_chunks(lists, max_numel=2)) == [lists]
