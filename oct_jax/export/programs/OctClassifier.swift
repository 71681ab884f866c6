import CoreGraphics
import Foundation
import OnnxRuntimeBindings

struct Answer {
    let probabilities: [Float]  // in the order of the bundle's labels
    let heatmap: [Float]  // height * width, row by row, over the scan
}

final class OctClassifier {
    private let environment: ORTEnv
    private let session: ORTSession

    init(modelPath: String) throws {
        environment = try ORTEnv(loggingLevel: .warning)
        session = try ORTSession(env: environment, modelPath: modelPath, sessionOptions: nil)
    }

    func classify(_ scan: CGImage) throws -> Answer {
        let (width, height) = (scan.width, scan.height)
        let levels = NSMutableData(length: width * height)!
        // The space that the grey levels are in already, so that they are copied as they are.
        let space = scan.colorSpace?.model == .monochrome
            ? scan.colorSpace! : CGColorSpaceCreateDeviceGray()
        let context = CGContext(
            data: levels.mutableBytes, width: width, height: height, bitsPerComponent: 8,
            bytesPerRow: width, space: space, bitmapInfo: CGImageAlphaInfo.none.rawValue)!
        context.draw(scan, in: CGRect(x: 0, y: 0, width: width, height: height))

        let shape = [1, height, width].map { NSNumber(value: $0) }
        let scans = try ORTValue(tensorData: levels, elementType: .uInt8, shape: shape)
        let outputs = try session.run(
            withInputs: ["scans": scans], outputNames: ["probabilities", "heatmap"],
            runOptions: nil)
        return Answer(
            probabilities: try floats(outputs["probabilities"]!),
            heatmap: try floats(outputs["heatmap"]!))
    }

    private func floats(_ value: ORTValue) throws -> [Float] {
        let data = try value.tensorData() as Data
        return data.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
    }
}
