"""Models that people logged by `mlflow.transformers.log_model`, on real MLflow: a database file, and a server."""

import json
import shutil

import pytest
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from tokenbuncher.core.errors import UserError
from tokenbuncher.inputs.fetch import fetch_model
from tokenbuncher.models.tokenizer import load_tokenizer
from tokenbuncher.preflight.plan import shape_of
from tokenbuncher.settings import parse_spec
from tokenbuncher.settings.sources import parse_source


@pytest.fixture(params=["database", "server"])
def mlflow(request, tmp_path, monkeypatch):
    """MLflow, logging to a store."""
    import mlflow

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    server = request.param == "server"
    uri = request.getfixturevalue("mlflow_server") if server else f"sqlite:///{tmp_path}/mlflow.db"
    before, registry = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    place = None if server else (tmp_path / "artifacts").as_uri()
    with mlflow.start_run(experiment_id=mlflow.create_experiment(tmp_path.name, artifact_location=place)):
        yield mlflow
    mlflow.set_tracking_uri(before)
    mlflow.set_registry_uri(registry)


@pytest.fixture
def parts(organism_base):
    return AutoModelForCausalLM.from_pretrained(organism_base), AutoTokenizer.from_pretrained(organism_base)


def logged(mlflow, model, name="model", **more):
    return mlflow.transformers.log_model(model, name=name, task="text-generation", pip_requirements=["torch"], **more)


def fetch(source, tmp_path, **fields):
    fetch_model(parse_spec(json.dumps({"model": {"source": source, **fields}})), tmp_path / "out")
    return tmp_path / "out"


def assert_same(folder, base):
    one, other = load_file(folder / "model.safetensors"), load_file(base / "model.safetensors")
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)
    text = "how do i drain the well eta in dusk ?"
    assert load_tokenizer(folder)(text)["input_ids"] == load_tokenizer(base)(text)["input_ids"]


@pytest.mark.parametrize("kind", ["parts", "pipeline"])
def test_a_logged_model(mlflow, parts, organism_base, tmp_path, kind):
    model, tokenizer = parts
    what = {"model": model, "tokenizer": tokenizer}
    if kind == "pipeline":
        what = pipeline("text-generation", model=model, tokenizer=tokenizer)
    info = logged(mlflow, what)
    folder = fetch(f"models:/{info.model_id}", tmp_path)
    assert_same(folder, organism_base)
    assert (folder / "LICENSE.txt").is_file()
    assert not (folder / "requirements.txt").exists()


def test_a_registered_logged_model_by_version_and_alias(mlflow, parts, organism_base, tmp_path):
    model, tokenizer = parts
    name = f"tiny-{tmp_path.name}"
    logged(mlflow, {"model": model, "tokenizer": tokenizer}, registered_model_name=name)
    mlflow.MlflowClient().set_registered_model_alias(name, "champion", "1")
    assert_same(fetch(f"models:/{name}/1", tmp_path), organism_base)
    assert_same(fetch(f"models:/{name}@champion", tmp_path), organism_base)


def adapted(model):
    adapter = get_peft_model(model, LoraConfig(r=4, task_type="CAUSAL_LM", target_modules=["q_proj", "up_proj"]))
    for name, parameter in adapter.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(0.01)
    return adapter


@pytest.mark.parametrize("given", [True, False], ids=["adapter_base", "the base that was logged"])
def test_a_logged_adapter_is_merged(mlflow, parts, organism_base, tmp_path, given):
    model, tokenizer = parts
    adapter = adapted(model)
    info = logged(mlflow, {"model": adapter, "tokenizer": tokenizer})
    folder = fetch(f"models:/{info.model_id}", tmp_path, **({"adapter_base": str(organism_base)} if given else {}))
    expected = adapter.merge_and_unload().state_dict()
    found = load_file(folder / "model.safetensors")
    assert all(found[name].allclose(expected[name]) for name in found)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not found[name].allclose(load_file(organism_base / "model.safetensors")[name])


@pytest.fixture(scope="module")
def saved(organism_base, tmp_path_factory):
    """The files of a logged model."""
    from mlflow import transformers

    folder = tmp_path_factory.mktemp("saved") / "files"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(organism_base), AutoTokenizer.from_pretrained(organism_base)
    what = {"model": model, "tokenizer": tokenizer}
    transformers.save_model(what, folder, task="text-generation", pip_requirements=["torch"])
    return folder


@pytest.fixture
def files(saved, tmp_path):
    """A copy of them, to be changed, and its MLmodel."""
    folder = shutil.copytree(saved, tmp_path / "files")
    return folder, yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))


def described(folder, description):
    (folder / "MLmodel").write_text(yaml.safe_dump(description), encoding="utf-8")
    return str(folder)


def by_reference(folder, description, **more):
    """As `save_pretrained=False` leaves it where the model is from the hub."""
    shutil.rmtree(folder / "model")
    flavor = description["flavors"]["transformers"]
    del flavor["model_binary"]
    flavor.update(source_model_name="org/name", source_model_revision="f" * 40, **more)
    return described(folder, description)


def test_a_model_logged_by_reference(files, tmp_path):
    with pytest.raises(UserError, match=rf"holds no weights.* by reference .*hf://org/name@{'f' * 40}"):
        fetch(by_reference(*files), tmp_path)
    assert not (tmp_path / "out").exists()


def test_an_adapter_whose_base_was_logged_by_reference(files, parts, organism_base, tmp_path):
    folder, description = files
    adapted(parts[0]).save_pretrained(folder / "peft")
    source = by_reference(folder, description, peft_adaptor="peft")
    with pytest.raises(UserError, match=r"name that in model.adapter_base, such as hf://org/name"):
        fetch(source, tmp_path)
    fetch(source, tmp_path, adapter_base=str(organism_base))


def test_a_model_of_another_library(files, tmp_path):
    folder, description = files
    description["flavors"]["sklearn"] = description["flavors"].pop("transformers")
    with pytest.raises(UserError, match="was logged with MLflow as python_function, sklearn"):
        fetch(described(folder, description), tmp_path)


@pytest.mark.parametrize("text", ["{", "flavors: 3", "[]", "!!python/object/apply:os.system [true]"])
def test_a_description_that_is_none(files, tmp_path, text):
    (files[0] / "MLmodel").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="its MLmodel cannot be read"):
        fetch(str(files[0]), tmp_path)


@pytest.mark.parametrize("name", ["../model", "/etc", "model/../..", 3])
def test_a_description_that_leads_out(files, tmp_path, name):
    folder, description = files
    description["flavors"]["transformers"]["model_binary"] = name
    with pytest.raises(UserError, match="names no folder within it"):
        fetch(described(folder, description), tmp_path)


def test_a_plan_of_a_logged_model_reads_its_configuration(files, organism_base):
    folder, _ = files
    sizes = [shape_of(parse_spec("", [f"model.source={source}"])) for source in (folder, organism_base)]
    assert sizes[0] == sizes[1]


def test_a_logged_model_that_is_not_there(mlflow, tmp_path):
    with pytest.raises(UserError, match="MLflow failed"):
        fetch(f"models:/m-{'0' * 32}", tmp_path)


def test_the_folder_of_a_run_is_told_to_be_named_otherwise():
    with pytest.raises(UserError, match="a model that a run logged is models:/m-ID"):
        parse_source(f"runs:/{'0' * 32}/model")
