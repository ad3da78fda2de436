"""What a user may write, and the one message met before anything is loaded where it cannot work."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from axolotl.utils.dict import DictDefault

from aspo_plugin.axolotl import config, contract, plugin, prepared, registration, training_arguments
from aspo_plugin.config import AspoSettings

BASE = {
    "base_model": "nothing",
    "plugins": [config.PLUGIN],
    "rl": "aspo",
    "datasets": [{"path": "somewhere"}],
}


def register(**changes: Any) -> DictDefault:
    cfg = DictDefault({key: value for key, value in {**BASE, **changes}.items() if value is not None})
    registration.register(cfg)
    return cfg


def test_the_config_becomes_what_axolotl_runs_and_a_second_call_changes_nothing() -> None:
    cfg = register(aspo={"alpha": 1})
    assert (cfg.rl, cfg.trainer_cls, cfg.seed) == ("dpo", config.TRAINER, 42)
    before = cfg.to_dict()
    registration.register(cfg)
    assert cfg.to_dict() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aspo": {"alhpa": 0.5}}, "unknown aspo: alhpa: the keys are aspo: alpha, aspo: normalization"),
        ({"aspo": {"alpha": 1.5}}, "aspo: alpha is 1.5.*number from 0 to 1"),
        ({"aspo": {"alpha": "half"}}, "aspo: alpha is 'half'"),
        (
            {"aspo": {"normalization": "length"}},
            "aspo: normalization is 'length': choose one of weight, reward, none",
        ),
        ({"aspo": 0.5}, "write a block of settings"),
        ({"aspo_alpha": 0.5}, "aspo_alpha is not a key of Axolotl.*block `aspo:`"),
        ({"rl": "dpo"}, "rl is dpo: nothing of ASPO would happen"),
        ({"rl": "dpo", "aspo": {"alpha": 0.5}}, "rl is dpo"),
        ({"rl": None}, "rl is None"),
        ({"trainer_cls": "mine.Trainer"}, "trainer_cls: mine.Trainer would replace"),
        ({"rl_beat": 0.3}, "rl_beat is no key of Axolotl, which would ignore it: did you mean rl_beta"),
        ({"beta": 0.3}, "beta: 0.3 does not work with rl: aspo, because Axolotl's key for it is rl_beta"),
        ({"neftune_noise_alpha": 5}, "supervised fine-tuning only, so it would change nothing"),
        ({"image_size": 336}, "bound images by processor_kwargs"),
        ({"sample_packing": True}, "sample_packing: True does not work with rl: aspo, because packed rows"),
        ({"pad_to_multiple_of": 64}, "pad_to_multiple_of: 64"),
        ({"dpo_use_liger_kernel": True}, "no per-token log-probs"),
        (
            {"adapter": "lora", "peft_init_lora_weights": "pissa_niter_4"},
            "peft_init_lora_weights is 'pissa_niter_4'.*reference",
        ),
        (
            {"adapter": "lora", "peft": {"loftq_config": {"loftq_bits": 4}}},
            "peft: loftq_config is 'loftq'.*reference",
        ),
        ({"dpo_loss_type": ["ipo"]}, "dpo_loss_type"),
        ({"dpo_label_smoothing": 0.1}, "no label smoothing"),
        ({"precompute_ref_log_probs": True}, "reference_cache"),
        ({"skip_prepare_dataset": True}, "sentences are placed on the tokens"),
        ({"context_parallel_size": 2}, "spread over processes"),
        ({"streaming": True}, "every pair is checked"),
        ({"datasets": None}, "rl: aspo needs datasets"),
        (
            {"datasets": [{"path": "a", "name": "b"}]},
            "has name, which rl: aspo does not read. The keys are path",
        ),
        (
            {"datasets": [{"path": "a", "field_chosen": "b"}]},
            "has field_chosen, which only a prompt strategy reads: add its `type`",
        ),
        (
            {"datasets": [{"path": "a", "type": "chatml.intel", "roles": {}}]},
            "has roles, which rl: aspo",
        ),
        (
            {"rl_adapter_ref_model": True, "aspo": {"reference_cache": "a"}},
            "rl_adapter_ref_model: true loads a second model",
        ),
        (
            {"datasets": [{"path": "a.jsonl", "ds_type": "parquet"}]},
            "has ds_type, which Axolotl drops .* read a.jsonl as json. Remove ds_type",
        ),
        ({"rl_beta": 0}, "rl_beta is 0, but it scales the margin: set a number above 0"),
        ({"trl": {"beta": -0.1}}, "trl: beta is -0.1"),
        ({"trl": {"beta": 0.1, "sync_ref_model": True}}, "trl: sync_ref_model would change nothing"),
        ({"test_datasets": [{"split": "b"}]}, "test_datasets: .* has no path"),
    ],
)
def test_mistakes_are_met_with_one_message(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        register(**changes)


def test_values_that_say_no_are_fine() -> None:
    register(
        sample_packing=False, dpo_use_liger_kernel=False, context_parallel_size=1, dpo_loss_type=["sigmoid"]
    )
    files = (("a.jsonl", "json"), ("a.parquet", "parquet"))
    register(datasets=[{"path": path, "ds_type": kind} for path, kind in files], rl_beta="1e-1")
    register(trl={"beta": 0.1, "sync_ref_model": False})
    register(trl=0.1)  # not ours to judge: the schema refuses it


# A value of each option that is refused: written out, so that none is dropped from the table unnoticed.
BAD = {
    **dict.fromkeys(
        (
            "balance_labels context_parallel_size curriculum_sampling orpo_alpha jagged_restart_steps "
            "dpo_label_smoothing dpo_ld_alpha do_bench_eval "
            "do_causal_lm_eval dpo_padding_free "
            "dpo_use_liger_kernel dpo_use_weighting eval_sample_packing eval_table_size group_by_length "
            "lisa_step_interval loss_watchdog_threshold lr_quadratic_warmup min_sample_len "
            "neftune_noise_alpha pad_to_multiple_of precompute_ref_log_probs process_reward_model relora "
            "reward_model sample_packing skip_prepare_dataset streaming use_dft use_eaft beta image_size"
        ).split(),
        7,
    ),
    "dpo_loss_type": ["ipo"],
    "dpo_loss_weights": [1.0],
    "image_resize_algorithm": "bilinear",
    "pretraining_dataset": [{"path": "a"}],
}


def test_every_option_that_cannot_work_is_refused() -> None:
    from aspo_plugin.axolotl.arguments import REFUSED

    assert REFUSED.keys() == BAD.keys()
    for key, value in BAD.items():
        with pytest.raises(ValueError, match=f"^{key}: .*does not work with rl: aspo"):
            register(**{key: value})


def test_an_installed_plugin_needs_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is listed from then on: what a listed plugin cannot do stops a run, also in the workers of Ray."""
    monkeypatch.setattr(contract, "finds_plugins", lambda: True)
    for plugins in (None, ["another.Plugin"]):
        cfg = register(plugins=plugins)
        assert cfg.rl == "dpo" and cfg.plugins == [*(plugins or []), config.PLUGIN]
    with pytest.raises(
        ValueError, match="there is a block aspo, but rl is dpo: nothing of ASPO would happen"
    ):
        register(plugins=None, rl="dpo", aspo={"alpha": 0.5})
    monkeypatch.setattr(contract, "finds_plugins", lambda: False)
    with pytest.raises(ValueError, match=f"needs the line `plugins: .{config.PLUGIN}.` in this version"):
        register(plugins=None)


def test_a_run_whose_settings_were_lost_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    from aspo_plugin.axolotl import trainer

    monkeypatch.setattr(trainer, "current_config", lambda: DictDefault(rl="dpo"))
    with pytest.raises(RuntimeError, match="the block aspo was lost"):
        trainer.AxolotlAspoTrainer(model=None, args=None, processing_class=None)


def test_keys_that_nobody_knows_are_named(caplog: pytest.LogCaptureFixture) -> None:
    register(my_own_notes="hello", _anchors={"a": 1})
    assert "my_own_notes: no key of Axolotl, so it changes nothing" in caplog.text


def test_rows_over_the_limit_are_dropped_where_nothing_is_said() -> None:
    from aspo_plugin.axolotl.datasets import limit_of

    limit = limit_of(DictDefault(sequence_len=10))
    assert (limit.max_length, limit.strategy) == (10, "drop")


def test_every_place_of_axolotl_we_rely_on_is_there() -> None:
    contract.check_host(contract.PLACES)


def test_a_place_that_moved_is_named() -> None:
    with pytest.raises(RuntimeError, match="relies on axolotl.common.datasets:gone, which Axolotl 0"):
        contract.check_host(("axolotl.common.datasets:gone",))


def test_a_place_of_newer_versions_is_asked_for_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "SINCE", (("99.0", "axolotl.train:gone"),))
    contract.check_host(contract.PLACES)
    monkeypatch.setattr(contract, "SINCE", (("0.1", "axolotl.train:gone"),))
    contract.check_host()
    with pytest.raises(RuntimeError, match="relies on axolotl.train:gone"):
        contract.check_host(contract.PLACES)


def test_a_place_that_moved_stops_each_command_before_the_data_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`train`, `preprocess` and `evaluate` all get their data here."""
    monkeypatch.setattr(contract, "PLACES", (*contract.PLACES, "axolotl.train:gone"))
    cfg = register()
    with pytest.raises(RuntimeError, match="relies on axolotl.train:gone"):
        prepared.prepared_splits(cfg)


@pytest.mark.parametrize("flag", ["--aspo.alpha=0.7", "--aspo_alpha=0.7", "--aspo-alpha"])
def test_a_flag_that_axolotl_ignores_is_refused(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["axolotl", "train", "config.yaml", "--launcher", "python", flag, "0.7"])
    with pytest.raises(ValueError, match=f"{flag} on the command line would change nothing"):
        register()


def test_a_trainer_of_someone_else_stops_the_run() -> None:
    with pytest.raises(RuntimeError, match="Axolotl built object"):
        plugin._check_trainer(object())


def test_other_kinds_of_rl_are_left_alone() -> None:
    other = DictDefault({"rl": "dpo", "plugins": ["another.Plugin"]})
    registration.register(other)
    assert other == {"rl": "dpo", "plugins": ["another.Plugin"]}
    registration.register(DictDefault({"base_model": "supervised"}))
    assert prepared.load_datasets(other) is None
    assert training_arguments.training_args(other) is None


@pytest.mark.parametrize(
    "sharding",
    [
        {},
        {
            "fsdp_version": 2,
            "fsdp_config": {
                "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                "transformer_layer_cls_to_wrap": "Qwen2VLDecoderLayer",
                "state_dict_type": "FULL_STATE_DICT",
                "reshard_after_forward": True,
            },
        },
        {"deepspeed": {"zero_optimization": {"stage": 3}, "bf16": {"enabled": True}}},
    ],
    ids=["plain", "fsdp2", "deepspeed"],
)
def test_axolotl_validates_what_we_registered(sharding: dict[str, Any]) -> None:
    """Axolotl's own schema takes the block with its defaults, beside FSDP2 and DeepSpeed."""
    from axolotl.cli.config import prepare_plugins
    from axolotl.utils.config import validate_config

    cfg = DictDefault(
        {
            **BASE,
            **sharding,
            "aspo": {"alpha": 1, "shared_prefix": True},
            "micro_batch_size": 1,
            "gradient_accumulation_steps": 1,
            "num_epochs": 1,
            "learning_rate": 1e-5,
            "optimizer": "adamw_torch",
            "bf16": True,
        }
    )
    prepare_plugins(cfg)
    capabilities = {"bf16": True, "fp8": False, "tf32": False, "n_gpu": 2, "compute_capability": "sm_90"}
    checked = validate_config(cfg, capabilities=capabilities, env_capabilities={"torch_version": "2.12.1"})
    defaults = {name: value for name, value in asdict(AspoSettings()).items() if value is not None}
    assert checked.aspo == defaults | {"alpha": 1.0, "shared_prefix": "true"}
    assert isinstance(checked.aspo["alpha"], float)
    assert config.is_aspo(checked) and checked.rl == "dpo"
    assert all(checked[key] for key in sharding)


def test_the_tested_versions_are_those_of_the_constraint_files() -> None:
    from tools.tested_versions import rows

    assert sorted(row[1] for row in rows() if row[0] == "Axolotl") == sorted(contract.TESTED)
