"""Fine-tuning: a snapshot of examples to a LoRA adapter."""
