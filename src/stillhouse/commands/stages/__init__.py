"""The stages of a distillation, a module each. A stage is a function of the workshop that first sees to the stages that it
stands on, and is done once; `commands/pipeline.py` names them all."""
