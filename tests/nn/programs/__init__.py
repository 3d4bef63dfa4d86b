"""Programs as users of `nn.LSTM` write them: each takes the class and returns its losses."""
