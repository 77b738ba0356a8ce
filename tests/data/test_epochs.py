"""A run that is killed and goes on sees the masks that it would have seen."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from stillhouse.data.epochs import TellEpoch
from stillhouse.data.masking import MaskedRows, Masking

STEPS_PER_EPOCH, EPOCHS = 3, 3


class _Witness(nn.Module):
    """Writes down the rows that it is shown."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen = []

    def forward(self, ids, **tensors):
        self.seen.append(ids.tolist())
        return {"loss": self.weight.square()}


class _Kill(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


def _rows():
    weights = torch.ones(60).index_fill(0, torch.arange(5), 0.0)
    texts = [(2, *range(10 + 4 * number, 30 + 4 * number), 3) for number in range(6)]
    return MaskedRows(texts, pad_id=0, masking=Masking(0.4, weights, 4), seed=0)


def _train(folder: Path, *callbacks, resume=None, rows=None):
    witness, rows = _Witness(), rows or _rows()
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=2,
        save_steps=1,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.accelerator.is_available(),
        seed=0,
        data_seed=0,
    )
    trainer = Trainer(witness, arguments, train_dataset=rows, data_collator=rows.collate, callbacks=list(callbacks))
    trainer.train(resume_from_checkpoint=resume)
    return witness.seen


def _in_order(batches):
    return sorted(row for batch in batches for row in batch)


def _expected(epoch):
    rows = _rows()
    rows.set_epoch(epoch)
    return sorted(rows[index][1] for index in range(len(rows)))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    rows = _rows()
    return _train(tmp_path_factory.mktemp("whole"), TellEpoch(rows), rows=rows)


def test_each_epoch_shows_its_own_masks(uninterrupted):
    for epoch in range(EPOCHS):
        shown = uninterrupted[STEPS_PER_EPOCH * epoch : STEPS_PER_EPOCH * (epoch + 1)]
        assert _in_order(shown) == _expected(epoch)
    assert _expected(0) != _expected(1) != _expected(2)


@pytest.mark.parametrize("step", [1, 3, 4, 5, 6, 8])
def test_a_resumed_run_sees_the_masks_that_it_would_have_seen(tmp_path, uninterrupted, step):
    _train(tmp_path, _Kill(step))
    rows = _rows()
    seen = _train(tmp_path, TellEpoch(rows), rows=rows, resume=str(tmp_path / f"checkpoint-{step}"))
    assert seen == uninterrupted[step:]


def test_accelerate_alone_would_tell_the_wrong_epoch_to_a_resumed_run(tmp_path, uninterrupted):
    """Why `TellEpoch` is there. When this fails, it may go."""
    _train(tmp_path, _Kill(4))
    seen = _train(tmp_path, resume=str(tmp_path / "checkpoint-4"))
    assert seen[:2] != uninterrupted[4:6]
    assert seen[2:] == uninterrupted[6:]
