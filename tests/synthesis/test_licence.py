"""What a teacher's files say of its licence."""

from stillhouse.synthesis.licence import licence_of, said_about_outputs, sentence_about_outputs

LLAMA = (
    "v. You will not use the Llama Materials or any output or results of the Llama Materials to improve any other large "
    "language model (excluding Llama 2 or derivative works thereof)."
)


def test_the_sentence_about_outputs_is_quoted_with_its_file(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: llama2\n---\n# A model\n")
    (tmp_path / "LICENSE").write_text(f"Agreement. iv. Something else.\n{LLAMA}\n2. Additional terms.")
    found = licence_of(str(tmp_path))
    assert found["licence"] == "llama2" and found["found_in"] == "LICENSE"
    assert found["about_outputs"].startswith("You will not use the Llama Materials")
    assert "LICENSE says" in said_about_outputs(found)


def test_nothing_found_is_said_and_is_no_permission(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\nTrained on much text. The results are good.")
    said = said_about_outputs(licence_of(str(tmp_path)))
    assert said == "nothing found about training on its outputs (README.md)"
    assert licence_of(str(tmp_path))["licence"] == "apache-2.0"
    (tmp_path / "README.md").write_text("---\n: [\n---\n")
    assert licence_of(str(tmp_path))["licence"] == ""


def test_sentences_about_the_models_own_training_say_nothing_about_its_outputs():
    assert sentence_about_outputs("This model was trained on the web.") == ""
    assert sentence_about_outputs("The output may be wrong.") == ""
    assert sentence_about_outputs("Outputs may be used to train other models.") != ""
