import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import android.content.Context
import android.graphics.Bitmap
import java.nio.ByteBuffer
import java.nio.ByteOrder

class Answer(val probabilities: FloatArray, val heatmap: Array<FloatArray>)

class OctClassifier(context: Context) : AutoCloseable {
    private val environment = OrtEnvironment.getEnvironment()
    private val session: OrtSession =
        environment.createSession(context.assets.open("classifier.onnx").use { it.readBytes() })

    /** Probabilities in the order of the bundle's labels, and a heatmap as large as the scan. */
    fun classify(scan: Bitmap): Answer {
        val shape = longArrayOf(1, scan.height.toLong(), scan.width.toLong())
        OnnxTensor.createTensor(environment, grey(scan), shape, OnnxJavaType.UINT8).use { scans ->
            session.run(mapOf("scans" to scans)).use { outputs ->
                @Suppress("UNCHECKED_CAST")
                val probabilities = outputs.get("probabilities").get().value as Array<FloatArray>
                @Suppress("UNCHECKED_CAST")
                val heatmap = outputs.get("heatmap").get().value as Array<Array<FloatArray>>
                return Answer(probabilities[0], heatmap[0])
            }
        }
    }

    private fun grey(scan: Bitmap): ByteBuffer {
        val colours = IntArray(scan.width * scan.height)
        scan.getPixels(colours, 0, scan.width, 0, 0, scan.width, scan.height)
        val levels = ByteBuffer.allocateDirect(colours.size).order(ByteOrder.nativeOrder())
        for (colour in colours) {
            val red = colour shr 16 and 0xff
            val green = colour shr 8 and 0xff
            val blue = colour and 0xff
            levels.put((19595 * red + 38470 * green + 7471 * blue + 32768 shr 16).toByte())
        }
        levels.rewind()
        return levels
    }

    override fun close() = session.close()
}
