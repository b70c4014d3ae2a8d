"""LinearSVC's heads: every class, also where a draw has fewer."""

import torch
from blobs import blobs
from torch.nn.functional import normalize

from bcl.evaluation.probe.draws import Draws
from bcl.evaluation.probe.svc import fit_svc


def test_a_head_has_the_classes_of_its_draw_in_their_places():
    from sklearn.svm import LinearSVC

    x, y = blobs(120)
    two = torch.isin(y, y.unique()[1:3])
    for rows in (torch.ones_like(two), two):
        part, labels = x[rows], y[rows]
        classes = int(y.max()) + 1
        heads = fit_svc(Draws(part[None], labels[None], len(labels), classes))
        logits = normalize(part) @ heads.weight[0] + heads.bias[0]
        present = labels.unique()
        found = present[logits[:, present].argmax(1)]
        peer = LinearSVC(random_state=0).fit(normalize(part).numpy(), labels.numpy())
        assert found.tolist() == peer.predict(normalize(part).numpy()).tolist()
