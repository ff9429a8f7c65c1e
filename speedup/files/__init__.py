"""Small models in files: tensors as safetensors, the plan beside them as text. Nothing is unpickled."""
