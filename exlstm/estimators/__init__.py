"""What the estimators in scikit-learn's style share: how their networks are trained and saved."""

from exlstm.estimators.saved import Saved as Saved
from exlstm.estimators.saved import read as read
from exlstm.estimators.saved import write as write
from exlstm.estimators.training import Training as Training
from exlstm.estimators.training import train as train
