"""How the tests are made: sampled, proposed, checked, reviewed, drawn, and put together."""
