"""The networks as plain ``nn.Module`` classes: build, call and differentiate them without Lightning."""
