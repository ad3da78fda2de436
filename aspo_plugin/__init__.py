"""ASPO: Adaptive Sentence-level Preference Optimization, for LLaMA-Factory, Axolotl and TRL."""

__version__ = "0.1.0"
