"""transformers: configuration, cache and models, registered with its Auto classes on import."""

import transformers

from exlstm.hf.cache import ExlstmCache as ExlstmCache
from exlstm.hf.classifiers import ExlstmForSequenceClassification as ExlstmForSequenceClassification
from exlstm.hf.classifiers import ExlstmForTokenClassification as ExlstmForTokenClassification
from exlstm.hf.configuration import ExlstmConfig as ExlstmConfig
from exlstm.hf.modeling import ExlstmForCausalLM as ExlstmForCausalLM
from exlstm.hf.modeling import ExlstmModel as ExlstmModel
from exlstm.hf.modeling import from_exlstm as from_exlstm

transformers.AutoConfig.register("exlstm", ExlstmConfig)
transformers.AutoModel.register(ExlstmConfig, ExlstmModel)
transformers.AutoModelForCausalLM.register(ExlstmConfig, ExlstmForCausalLM)
transformers.AutoModelForSequenceClassification.register(
    ExlstmConfig, ExlstmForSequenceClassification
)
transformers.AutoModelForTokenClassification.register(ExlstmConfig, ExlstmForTokenClassification)
