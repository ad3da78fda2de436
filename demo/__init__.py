"""`make demo`: the main job on pictures drawn here, from raw preference data to a trained adapter."""
