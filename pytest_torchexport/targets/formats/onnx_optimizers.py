"""The optimizers of ONNX Runtime by the names that ``disabled_optimizers`` takes.

ONNX Runtime has no list of them to ask for, and accepts a name that it does not know. So the table
holds those of every version from 1.22 on, and a test compares it with what the installed version
logs while it opens a file.
"""

from __future__ import annotations

# In the order in which they run: onnxruntime/core/optimizer/graph_transformer_utils.cc.
OPTIMIZERS = (
    # level 1
    "Level1_RuleBasedTransformer",
    "DoubleQDQPairsRemover",
    "ConstantSharing",
    "CommonSubexpressionElimination",
    "ConstantFolding",
    "MatMulAddFusion",
    "ReshapeFusion",
    "FreeDimensionOverrideTransformer",
    "SliceConcatToSpaceToDepthFusion",
    "GeluFusionL1",
    "LayerNormFusionL1",
    "QDQPropagationTransformer",
    "WeightBiasQuantization",
    "WhereDummyDq",
    "EnsureUniqueDQForNodeUnit",
    "RocmBlasAltImpl",
    "TransposeOptimizer",
    # level 2
    "Level2_RuleBasedTransformer",
    "TransposeOptimizer_CPUExecutionProvider",
    "QDQS8ToU8Transformer",
    "QDQSelectorActionTransformer",
    "GemmActivationFusion",
    "MatMulIntegerToFloatFusion",
    "DynamicQuantizeMatMulFusion",
    "ConvActivationFusion",
    "GeluFusionL2",
    "LayerNormFusionL2",
    "SimplifiedLayerNormFusion",
    "AttentionFusion",
    "EmbedLayerNormFusion",
    "GatherSliceToSplitFusion",
    "GatherToSliceFusion",
    "MatmulTransposeFusion",
    "BiasGeluFusion",
    "GroupQueryAttentionFusion",
    "SkipLayerNormFusion",
    "BiasSkipLayerNormFusion",
    "FastGeluFusion",
    "QuickGeluFusion",
    "GeluApproximation",
    "BiasSoftmaxFusion",
    "BiasDropoutFusion",
    "MatMulScaleFusion",
    "MatMulActivationFusion",
    "Avx2WeightS8ToU8Transformer",
    "MatMulNBitsFusion",
    "MatMulNBitsMlpFusion",
    "MatMulNBitsQkvFusion",
    "DQMatMulNBitsFusion",
    "GqaValueLayoutTransformer",
    "GroupQueryAttentionPreNormFusion",
    "QDQFinalCleanupTransformer",
    # level 3
    "NchwcTransformer",
    "NhwcTransformer",
    "ConvAddActivationFusion",
    "RemoveDuplicateCastTransformer",
)

# The rules that an optimizer of these applies; each can be disabled by itself.
RULES = {
    "Level1_RuleBasedTransformer": (
        "EliminateIdentity",
        "EliminateSlice",
        "UnsqueezeElimination",
        "EliminateDropout",
        "ExpandElimination",
        "CastElimination",
        "CastChainElimination",
        "PreShapeNodeElimination",
        "NoopElimination",
        "DivMulFusion",
        "FuseReluClip",
        "GemmSumFusion",
        "GemmTransposeFusion",
        "NotWhereFusion",
        "ConvAddFusion",
        "ConvMulFusion",
        "ConvBNFusion",
        "Pad_Fusion",
        "MatMul_BatchNormalization_Fusion",
        "LabelEncoderFusion",
    ),
    "Level2_RuleBasedTransformer": (
        "ClipQuantRewrite",
        "ReluQuantRewrite",
        "GemmTransposeFusion",
    ),
}
