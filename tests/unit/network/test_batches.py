"""Conversations become one flat row whose targets are the trained tokens and nothing else."""

import numpy as np

from tuneyard.network.batches import IGNORED, EncodedRows, Row, flatten


def row(ids, mask):
    return Row(input_ids=np.array(ids, np.int32), loss_mask=np.array(mask, bool))


def test_rows_survive_a_round_trip_through_disk(tmp_path):
    written = [([5, 6, 7], [False, True, True]), ([8], [True]), ([9, 10], [False, False])]
    rows = EncodedRows.write(tmp_path, written)
    read = [(list(r["input_ids"]), list(r["loss_mask"])) for r in (rows[i] for i in range(len(rows)))]
    assert read == written
    assert rows.lengths == [3, 1, 2]
    assert rows.trained_tokens == 3


def test_a_flat_row_restarts_positions_and_predicts_trained_tokens_only():
    flat = flatten([row([5, 6, 7], [0, 0, 1]), row([8, 9], [1, 1])])
    assert flat["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert flat["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert flat["cu_seq_lens_q"].tolist() == [0, 3, 5]
    # 7 is predicted from 6 (position 1), 9 from 8 (position 3); 8 begins a conversation, so nothing predicts it
    assert flat["logits_to_keep"].tolist() == [1, 3]
    assert flat["labels"].tolist() == [[7, 9]]
    assert flat["max_length_q"] == 3


def test_an_empty_share_has_one_ignored_target():
    flat = flatten([])
    assert flat["labels"].tolist() == [[IGNORED]]
    assert flat["input_ids"].shape == (1, 1)


def test_a_conversation_with_nothing_to_train_counts_no_target():
    assert flatten([row([5, 6], [0, 0])])["shift_labels"].ne(IGNORED).sum() == 0
