"""Classes of sequences, in scikit-learn's style."""

from exlstm.classify.attribution import Attribution as Attribution
from exlstm.classify.attribution import plot_attribution as plot_attribution
from exlstm.classify.calibration import classification_scores as classification_scores
from exlstm.classify.calibration import expected_calibration_error as expected_calibration_error
from exlstm.classify.classifier import XLSTMClassifier as XLSTMClassifier
from exlstm.classify.records import Record as Record
from exlstm.classify.records import records_from_frame as records_from_frame
